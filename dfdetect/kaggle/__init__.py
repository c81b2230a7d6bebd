"""The competition: where its data is, its submissions, and the bundle to upload."""
