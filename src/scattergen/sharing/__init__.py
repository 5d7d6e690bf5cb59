"""What leaves this machine: decoders for other programs, folders to pass on, and models on the Hugging Face Hub."""
