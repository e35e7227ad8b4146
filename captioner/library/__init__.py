"""Captions where photo software, spreadsheets and people look for them.

xmp.py         an XMP packet: read and change captions and keywords, keep everything else
embedded.py    captions that a photo file itself carries: XMP, IPTC, EXIF
sidecars.py    captions into XMP sidecars, or by ExifTool into the photos
album.py       photos with their captions as one HTML page
tables.py      captions as rows of CSV and Parquet
watching.py    photos that arrive in a folder
"""
