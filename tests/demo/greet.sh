# Copied into the demo's image and run there, once while it is built and once by ch-run.
cat /opt/greet/said
echo "The root directory had $(cat /opt/greet/entries) entries when the image was built; now:"
ls /
