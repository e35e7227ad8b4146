"""Write captions where photo software, spreadsheets and people look for them.

xmp.py         an XMP packet: read and change captions and keywords, keep everything else
embedded.py    captions stored in a photo file: XMP, IPTC, EXIF
sidecars.py    write captions to XMP sidecars, or with ExifTool to the photos themselves
album.py       photos with their captions as one HTML page
tables.py      captions as rows of CSV and Parquet
watching.py    watch a folder for new photos
"""
