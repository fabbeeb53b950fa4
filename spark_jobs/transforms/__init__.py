"""DataFrame to DataFrame transformations, each tested alone."""
