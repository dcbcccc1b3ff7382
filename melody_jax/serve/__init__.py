"""A bundle as a service: REST, progress, streams, and a web page. Starts with `melody serve`; docs/serving.md."""
