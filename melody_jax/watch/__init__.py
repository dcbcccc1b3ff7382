"""What a run tells of itself: the journal that the loop writes, the report on it, FLOPs, chips."""
