"""MiniCPM-o 2.6, what of it sees and writes: MiniCPM-V 2.6 with other weights. What hears and speaks is left out."""

from exporters import minicpmv

ARCHITECTURE = minicpmv.architecture("minicpmo")
