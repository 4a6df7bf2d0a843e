"""What captions say, and how it compares with the masks: redundancy, grounding, leakage, CLIPScore."""
