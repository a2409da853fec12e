"""Inputs of users: images, masks, label images and their tables."""
