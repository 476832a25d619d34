"""Where independent runs are computed: in this process, in processes beside it, or on a cluster."""
