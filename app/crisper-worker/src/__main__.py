"""``python <this folder> -A project worker ...``: see crisper_worker."""

from crisper_worker.__main__ import main

main()
