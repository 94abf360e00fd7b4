"""Cases, preprocessing, augmentation and sampling; and phantoms to try them on."""
