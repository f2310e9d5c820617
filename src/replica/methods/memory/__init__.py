"""Methods that train in less memory: what backward keeps, and what the optimizer keeps."""
