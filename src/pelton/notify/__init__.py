"""Alert to receivers: matching, grouping, template, pipeline."""
