/* detmath.h - elementary functions in defined double arithmetic (add, multiply, divide, sqrt, floor only, written order),
 * so that scalars which decide trained bytes are the same for every compiler and C library. Relative error below 1e-14
 * over the stated range. */
#ifndef QSI_DETMATH_H
#define QSI_DETMATH_H

double qsi_exp(double x);            /* any x; 0 below -745, +inf above 709.8 */
double qsi_log(double x);            /* x > 0 normal; -inf for 0, NaN below */
double qsi_pow(double x, double y);  /* x > 0: exp(y log x), error 1e-14 * (1 + |y log x|) */
double qsi_cos(double x);            /* |x| < 1e6 */
double qsi_sin(double x);
double qsi_erfinv(double p);         /* |p| < 1; relative error below 1e-9 */

#endif
