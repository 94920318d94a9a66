"""What models see in pictures: CLIP's vision transformers, and the style models that turn what they see into tokens."""
