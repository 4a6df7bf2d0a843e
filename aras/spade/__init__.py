"""The conditional GAN: images of land-cover masks (generative_trainer_unet_spade_gan.py)."""
