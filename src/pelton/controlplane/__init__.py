"""Per resource: reconciler, autoscaler loop, builds."""
