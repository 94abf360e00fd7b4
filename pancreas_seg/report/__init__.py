"""Pictures that show a person what was segmented."""
