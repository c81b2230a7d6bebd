"""The Kaggle competition: finds its data, writes submissions, and makes the bundle to upload."""
