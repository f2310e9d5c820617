"""Training in less memory: compact optimizer states, frozen tensors and compressed activations."""
