"""The Kaggle competition: its data, its submissions, and the bundle to upload."""
