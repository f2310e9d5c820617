"""Programs of the workflow's jobs: how one starts in its allocation, the records it leaves, and how far the jobs of a plan are."""
