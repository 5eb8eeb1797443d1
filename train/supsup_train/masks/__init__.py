"""One task's masks, learned: recipe, rule, scores, steps."""
