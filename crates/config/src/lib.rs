//! The operator's file: strict parsing with every error at once, and hot reload.
