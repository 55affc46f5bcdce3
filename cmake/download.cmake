# cmake -DNAME=Catch2 -DTO=DIR -P cmake/download.cmake: unpacks the pinned official release of NAME into DIR/NAME.
# Fails at once where the network refuses, and after a minute where it is silent.
include(${CMAKE_CURRENT_LIST_DIR}/pins.cmake)
if(NOT HYBRIDMOE_PIN_${NAME}_URL)
  message(FATAL_ERROR "no pinned release of '${NAME}'")
endif()

set(archive ${TO}/${NAME}.archive)
file(DOWNLOAD ${HYBRIDMOE_PIN_${NAME}_URL} ${archive} STATUS status INACTIVITY_TIMEOUT 20 TIMEOUT 600 TLS_VERIFY ON)
list(GET status 0 code)
if(code EQUAL 0)
  file(SHA256 ${archive} hash)
  if(NOT hash STREQUAL HYBRIDMOE_PIN_${NAME}_SHA256)
    message(FATAL_ERROR "${NAME}: the download has another hash than the pinned release")
  endif()
  file(REMOVE_RECURSE ${TO}/${NAME} ${TO}/${NAME}.unpacked)
  file(ARCHIVE_EXTRACT INPUT ${archive} DESTINATION ${TO}/${NAME}.unpacked)
  file(GLOB top ${TO}/${NAME}.unpacked/*)  # one folder, whose name depends on where the archive was made
  file(RENAME ${top} ${TO}/${NAME})
  file(REMOVE_RECURSE ${TO}/${NAME}.unpacked)
else()
  list(GET status 1 reason)
  message(FATAL_ERROR "${NAME}: the official release cannot be fetched here (${reason})")
endif()
