"""Ray clusters from the console: starting, submitting, looking, ending (R-I2). Ray itself is imported where it is used."""
