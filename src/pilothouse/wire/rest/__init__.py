"""Models of the REST API's answers, one file per noun. The tests validate every answer that they receive."""
