"""The same searches across initialisation schemes and seeds: how alike are the masks, and how good the tickets?"""
