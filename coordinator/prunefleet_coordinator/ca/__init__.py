"""The authority: decides who is a member. A process of its own, with its own folder, apart from the coordinator."""
