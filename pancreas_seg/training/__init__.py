"""Teaching the network with labelled CTs."""
