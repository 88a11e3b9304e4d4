"""Those who are told how a run goes. They get numbers and pictures, return nothing, and never stop a run."""
