"""Training: data sets, augmentation and loops."""
