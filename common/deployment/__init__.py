"""What both ends of a deployment share: the papers that change hands, and how Flower's programs are run."""
