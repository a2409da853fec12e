"""What a user may hand in: images, masks, label images and their tables."""
