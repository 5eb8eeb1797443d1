"""The paper's tables and figures, and this project's own, from data to documentation."""
