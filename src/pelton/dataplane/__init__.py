"""Per request or event: worker, zygote, activator, instances, dispatcher."""
