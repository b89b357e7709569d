"""picture.py IN OUT WIDTHxHEIGHT: resized (bicubic) and written as PNG, so that every detector reads the same pixels."""
import sys
from PIL import Image
width, height = map(int, sys.argv[3].split("x"))
Image.open(sys.argv[1]).convert("RGB").resize((width, height), Image.BICUBIC).save(sys.argv[2])
