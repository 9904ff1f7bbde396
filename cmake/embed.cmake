# embed.cmake - puts style.css, plot.js and page.js into page.html and the page into a C array.
#   cmake -DFOLDER=cli/report -DOUT=report_page.c -P cmake/embed.cmake
# {{style}}, {{plot}} and {{script}} are replaced here; {{data}} stays for the command.
file(READ ${FOLDER}/page.html page)
file(READ ${FOLDER}/style.css style)
file(READ ${FOLDER}/plot.js plot)
file(READ ${FOLDER}/page.js script)
string(REPLACE "{{style}}" "${style}" page "${page}")
string(REPLACE "{{plot}}" "${plot}" page "${page}")
string(REPLACE "{{script}}" "${script}" page "${page}")
file(WRITE ${OUT}.html "${page}")
file(READ ${OUT}.html bytes HEX)
string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE ${OUT} "extern const unsigned char report_page[];\nconst unsigned char report_page[] = {\n${bytes}0};\n")
