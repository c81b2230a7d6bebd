"""For the Kaggle competition: finds its data, writes submissions, makes the bundle to upload."""
