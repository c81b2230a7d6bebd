"""Find the Kaggle competition's data, write submissions, and make the bundle to upload."""
