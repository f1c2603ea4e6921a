"""Autoencoders of the package diffusers: encode images into a cache of latents, and decode latents.

vae = load("stabilityai/sd-vae-ft-ema", device="cuda")     # an id of the hub, or a folder
parts = {"all": data.load("photos")}
contents = planned(parts, vae, source="photos")            # the contents of the cache, see data.latent_cache
encode(Cache.begin("photos-latents", contents), parts, vae)
images = Decoder(vae, contents.codec)(latents)             # in [-1, 1]
"""

from flowleap.autoencoders.decoding import Decoder, decoder, decoder_or_none
from flowleap.autoencoders.encoding import encode, planned
from flowleap.autoencoders.model import KINDS, PRECISIONS, Autoencoder, load

__all__ = [
    "KINDS",
    "PRECISIONS",
    "Autoencoder",
    "Decoder",
    "decoder",
    "decoder_or_none",
    "encode",
    "load",
    "planned",
]
