"""Before spending: FLOPs, memory, disk and time of every stage, each with an honest interval."""
