"""The closed loop: tune the same model on what each method chose, and see what it learned."""
