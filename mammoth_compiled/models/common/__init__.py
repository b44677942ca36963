"""What several methods share: buffers, teachers, prompts, features, settings of papers."""
