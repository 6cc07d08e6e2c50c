"""What the tasks of a build do, one module per phase, and the plans that list the next phase's tasks."""
