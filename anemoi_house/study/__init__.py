"""The study: experiments trained alike from several seeds, and compared at the boundary (docs/study.md)."""
