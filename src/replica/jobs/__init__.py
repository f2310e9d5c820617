"""Programs of the workflow's jobs: how one starts in its allocation, what it records, and how far the jobs of a plan are."""
