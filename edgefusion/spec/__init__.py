"""The nouns of the house: Device, Recipe, Bundle. Strict models; JSON Schema is generated from them."""
