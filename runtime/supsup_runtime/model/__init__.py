"""Run exported models and infer tasks."""
