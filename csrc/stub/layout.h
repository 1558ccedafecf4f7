/* Constants of shared.h that assembly needs (build.py checks that they agree). */
#define REGION_BASE 0x7fff10000000
#define REGION_SIZE 0x8000000
