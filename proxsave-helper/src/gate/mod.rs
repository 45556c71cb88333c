//! The gate: tokio and tarpc in a process with no rights, between the front-end and the broker.
