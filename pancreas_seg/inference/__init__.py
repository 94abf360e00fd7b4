"""From a CT to a mask with a verdict."""
