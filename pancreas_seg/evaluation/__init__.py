"""How well a mask agrees with a reference. No torch here."""
