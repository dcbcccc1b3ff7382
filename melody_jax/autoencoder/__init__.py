"""The audio VAE-GAN: 24 kHz waveforms to continuous latents and back."""
